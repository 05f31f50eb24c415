"""`llmchatbot doctor`: what is looked at, by where it is."""
