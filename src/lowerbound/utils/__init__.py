"""Tools that know nothing of variational autoencoders: messages, files, devices, seeds, memory,
progress.
"""
