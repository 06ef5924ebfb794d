"""Kits: networks written out as plain Python modules and ONNX files, with the script that times them elsewhere."""
