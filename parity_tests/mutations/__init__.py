"""The porting mistakes that are injected, by family; `doors` has those of loading weights and preparing images."""
