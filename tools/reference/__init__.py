"""The pages of the documentation that are made from the code: settings, commands, the Python interface, the protos."""
