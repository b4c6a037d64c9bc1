"""What makes training converge faster and is not in the network: nothing of it runs in prediction."""

from .denoising_queries import DenoisingQueries
from .dense_supervision import DenseSupervision
from .query_groups import QueryGroups

__all__ = ['DenoisingQueries', 'DenseSupervision', 'QueryGroups']
