"""A stand-in for vLLM, where it is not installed: as much of its plug-in and loader interface as a loader meets.

Written after what vLLM 0.33 documents and does: `vllm.general_plugins`, `register_model_loader`, `LoadConfig`, and a default
loader that gives a model its tensors by `get_all_weights`, then asks whether every parameter was among them. Here they are
numpy arrays.
"""
