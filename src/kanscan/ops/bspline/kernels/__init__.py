"""The kernels of this op: C++ for the processor, Triton for CUDA devices, and what their calls share."""
