"""What can be measured on labels and on stains, so that training and rendering see the same numbers?"""
