"""Every figure of the reports: functions from tables to matplotlib figures."""
