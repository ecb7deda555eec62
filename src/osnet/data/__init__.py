"""Files -> crops -> tensors. Readers, the one image reader, preprocessing. Imports no other room."""
