"""The ground floor: records, files, tensors, child processes, words and bars."""
