"""The generation tasks by name; a new one adds its module and its line here."""

from afp_ray.evaluation.generation_task import GenerationTask
from afp_ray.evaluation.generation_tasks import answer_language, mgsm, summarization, translation, xquad_qa

GENERATION: dict[str, GenerationTask] = {
    "translation": translation.TASK,
    "summarization": summarization.TASK,
    "answer_language": answer_language.TASK,
    "mgsm": mgsm.TASK,
    "xquad_qa": xquad_qa.TASK,
}
