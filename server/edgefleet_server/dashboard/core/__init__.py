"""What every page is made with: layout, templates and their filters, navigation, forms, sign-in and preferences."""
