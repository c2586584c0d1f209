"""What a server measures of itself, in plain numbers, and how they become metrics when somebody asks."""
