"""Models on disk: Hugging Face directories, GGUF files, our own store, and their tokenizers."""
