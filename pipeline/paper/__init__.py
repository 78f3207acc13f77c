"""The paper's experiment: its public data fetched and checked, and its tables beside what others measured."""
