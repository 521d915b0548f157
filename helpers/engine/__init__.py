"""What a training loop stands on: files, devices, processes, snapshots, parts of a batch. Imports
nothing of the course.
"""
