"""Several workers share the requests of one evaluation, and each ends with all log-likelihoods.

Requests are dealt in stretches of their token order, so that what shares tokens stays with one worker; the stretches
hold like numbers of tokens that are not shared with the request before.
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
import torch.distributed as dist

from afp_ray.errors import TaskError, UserError
from afp_ray.evaluation.scoring import ContinuationScorer
from afp_ray.evaluation.trie import Request, common_prefix


def score_with_workers(
    scorer: ContinuationScorer,
    questions: Sequence[Sequence[tuple[str, str]]],
    *,
    group: dist.ProcessGroup | None = None,
) -> list[tuple[float, ...]]:
    """What `scorer.score` gives, each worker of the group having scored a part.

    Args:
        scorer: with equal weights on every worker.
        questions: the same on every worker; (context, continuation) pairs per question.
        group: the workers; null takes all of them, and this process alone where there is no process group.

    Returns: one tuple of nats per question, equal on every worker.
    Raises: what a part raises, on its worker; TaskError on the others, so that none waits for ever.
    """
    if not dist.is_initialized():
        return scorer.score(questions)
    requests = scorer.requests(questions)
    unique = sorted(dict.fromkeys(requests), key=lambda request: (request.ids, request.start))
    first, last = _parts(unique, dist.get_world_size(group))[dist.get_rank(group)]
    found = torch.zeros(len(unique) + 1, dtype=torch.float64, device=scorer.device)  # and how many have failed
    failure: UserError | None = None
    try:
        values = scorer.score_requests(unique[first:last])
    except UserError as error:
        failure = error
        found[-1] = 1
    else:
        found[first:last] = torch.tensor([values[request] for request in unique[first:last]], dtype=torch.float64)
    dist.all_reduce(found, group=group)  # all but one add 0, which is exact
    *gathered, failed = found.tolist()
    if failure is not None:
        raise failure
    if failed:
        raise TaskError(f"{failed:.0f} of the workers could not score their part", fix="see the error of that worker")
    by_request = dict(zip(unique, gathered, strict=True))
    flat = iter(requests)
    return [tuple(by_request[next(flat)] for _ in question) for question in questions]


def _parts(ordered: Sequence[Request], number: int) -> list[tuple[int, int]]:
    """First request of each part and one past its last."""
    shared = [0, *(common_prefix(a.ids, b.ids) for a, b in pairwise(ordered))]
    work = list(accumulate(len(request.ids) - same for request, same in zip(ordered, shared, strict=False)))
    total = work[-1] if work else 0
    cuts = [sum(done * number <= total * part for done in work) for part in range(number)]
    return list(pairwise([*cuts, len(ordered)]))
