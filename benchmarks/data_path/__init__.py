"""What does the data path cost beside stock mining, is its memory flat, and does it survive kills?"""
