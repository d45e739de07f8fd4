"""Finding a learning rate: range tests, what their curves support, and where the answer goes."""
