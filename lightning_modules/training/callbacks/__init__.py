"""What happens beside the steps of a run: metrics files, pictures, averages, requeueing."""
