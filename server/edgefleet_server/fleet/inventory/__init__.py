"""What people see and edit of the fleet: lists, searches and views of devices, their labels, and groups."""
