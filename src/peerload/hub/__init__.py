"""The Hugging Face cache: reading it, filling it as `hf download` does, and downloading from the hub itself.

Needs the extra `hub` (the package huggingface_hub), which is imported when it is first needed.
"""
