"""What does the path of the data cost, beside stock mining, at what size does it stay flat, and does it survive kills?"""
