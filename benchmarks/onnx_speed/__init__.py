"""How fast is the exported ONNX graph beside torch, and how near are its vectors?"""
