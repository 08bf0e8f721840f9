"""What do mining and grading cost beside stock mining, at what size do they stay flat, and do they survive kills?"""
