"""Speed, memory and accuracy of detectors, measured in turns."""
