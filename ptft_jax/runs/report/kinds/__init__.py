"""What a report shows of each kind of task.

classes   one class for each text;  labels  several;  scores  numbers
tagging   tags of words;  span  questions and answers;  choice  multiple choice;  vectors  of texts
"""
