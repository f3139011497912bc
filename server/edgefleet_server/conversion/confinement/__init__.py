"""What takes rights away from a conversion child: a root folder, a user and a control group of its own, and file rules."""
