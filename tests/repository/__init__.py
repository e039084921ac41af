"""What holds for the files of the checkout: records of decisions, sizes, subjects of commits."""
