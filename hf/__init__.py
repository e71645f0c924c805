"""Released weights and tokenizer files, in and out: folders as the Hugging Face hub has them."""
