"""The wire: our .proto files, their messages in a descriptor pool of our own, the source id, and splicing."""
