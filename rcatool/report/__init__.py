"""What a person looks at: the page of a run, the page of two runs, and the strip of one photo. Reads what the stages wrote (no torch)."""
