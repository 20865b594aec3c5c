"""What-if: strategies, models and budgets tried on a labelled data set, in virtual time, before anything is spent."""
