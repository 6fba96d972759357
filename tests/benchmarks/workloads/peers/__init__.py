"""Other ways to come by a learning rate, through their real packages, on the jobs of this folder."""
