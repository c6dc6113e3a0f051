"""The images: folders, lists, archives and hubs in; batches of tensors out."""
