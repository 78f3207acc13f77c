"""From drawn prompts to the rollouts of one iteration, in whole groups over the env runners."""

from algorithms.igpo.sampling.batch import SampledBatch, sample_batch
from algorithms.igpo.sampling.group_sampler import GroupSampler
from algorithms.igpo.sampling.jobs import heldout_jobs, training_jobs

__all__ = ["GroupSampler", "SampledBatch", "heldout_jobs", "sample_batch", "training_jobs"]
