"""Machinery of the LoRA course; each file serves one lesson. Importing this package loads nothing heavy."""
