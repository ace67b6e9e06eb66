"""What happens to a payload: pure rules, values in and values out."""
