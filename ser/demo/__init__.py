"""A page in the browser for trained models: microphone, files, folders, history, model card."""
