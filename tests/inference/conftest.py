from detector_fixtures import *  # noqa: F403
