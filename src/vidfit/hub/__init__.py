"""Packed files on the Hugging Face Hub: `vidfit push`, and `vidfit.load("hf://owner/name")`."""
