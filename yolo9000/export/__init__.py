"""Exported networks: written as ONNX, TorchScript or torch.export programs, and read and run again.

`graph` is what is exported, `about` what the files say of it, `write` makes the files, `program` runs them.
"""
