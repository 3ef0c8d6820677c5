"""What inspect_ai loads by this package's entry point: the provider `moa`, light until it is used."""

from inspect_ai.model import ModelAPI, modelapi

__all__ = ["moa"]


@modelapi("moa")
def moa() -> type[ModelAPI]:
    """`moa/NAME`: a mixture as a model of inspect_ai."""
    from moa_graph.eval.inspect_model import MoAModel

    return MoAModel
