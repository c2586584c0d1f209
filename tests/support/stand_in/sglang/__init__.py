"""A stand-in for SGLang, where it is not installed: a load format that is a class, and the default loader's one method that
gives a model its tensors, after what SGLang 0.5.23 does. Here they are numpy arrays."""
