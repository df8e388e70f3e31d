"""The coordinator: it decides who trains together, which records come next, and keeps the workers alive."""
