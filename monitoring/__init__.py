"""Monitoring: live traffic is compared with the training data; alarms notify, retrain or roll back."""
