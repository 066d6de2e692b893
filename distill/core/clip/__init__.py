"""open_clip models, which teachers and students both are: building one, its folder on disk, its weights handed on."""
