"""What the programs of the miniature do, as tables: operations, wordings, names, languages.

One operation a line: its name, its category, types in -> type out, its code, three ways to ask for
it. {v} is a variable, {w} another one (the second of three types is its type), {k} a number.
"""
from collections import namedtuple

WORDS = ("apple banana cherry grape lemon mango melon olive peach pear plum red blue green black "
         "white cat dog bird fish horse tree river stone cloud rain snow wind fire light").split()

NAMES = {   # what a variable of each type may be called
    "nums": "nums values numbers data items scores arr xs".split(),
    "words": "words names tags fruits labels parts".split(),
    "text": "text s phrase line message title".split(),
    "int": "n x k count number total".split(),
    "dict": "d table stock ages prices".split(),
}

# into: the type of {v}; other: that of {w}, or None; out: that of the result.
Operation = namedtuple("Operation", "name category into other out code asks")


def read(table):
    """The lines of a table -> Operations."""
    found = []
    for line in table.strip().splitlines():
        name, category, types, code, *asks = line.split(" | ")
        into, *other, out = types.split()
        found.append(Operation(name, category, into, *(other or [None]), out, code, tuple(asks)))
    return found


# The basic ones: a chain of them needs nothing but the variable before.
BASIC = read(r"""
sort | array | nums nums | sorted({v}) | Sort "{v}" in ascending order | Put "{v}" in increasing order | Arrange "{v}" from smallest to largest
sort_down | array | nums nums | sorted({v}, reverse=True) | Sort "{v}" in descending order | Put "{v}" in decreasing order | Arrange "{v}" from largest to smallest
reverse | array | nums nums | {v}[::-1] | Reverse "{v}" | Turn "{v}" around | Take "{v}" in reverse order
double | array | nums nums | [2 * i for i in {v}] | Double each element of "{v}" | Multiply every number in "{v}" by two | Take twice each value of "{v}"
add_k | array | nums nums | [i + {k} for i in {v}] | Add {k} to each element of "{v}" | Increase every number in "{v}" by {k} | Raise each value of "{v}" by {k}
times_k | array | nums nums | [i * {k} for i in {v}] | Multiply each element of "{v}" by {k} | Scale every number in "{v}" by {k} | Take {k} times each value of "{v}"
squares | array | nums nums | [i ** 2 for i in {v}] | Square each element of "{v}" | Compute the squares of the numbers in "{v}" | Raise every value of "{v}" to the power of two
evens | array | nums nums | [i for i in {v} if i % 2 == 0] | Keep only the even numbers of "{v}" | Select the even elements of "{v}" | Filter "{v}" to its even values
odds | array | nums nums | [i for i in {v} if i % 2 == 1] | Keep only the odd numbers of "{v}" | Select the odd elements of "{v}" | Filter "{v}" to its odd values
above_k | array | nums nums | [i for i in {v} if i > {k}] | Keep the numbers of "{v}" greater than {k} | Select the elements of "{v}" above {k} | Filter "{v}" to values larger than {k}
first_k | array | nums nums | {v}[:{k}] | Take the first {k} elements of "{v}" | Keep the first {k} numbers of "{v}" | Select the leading {k} values of "{v}"
last_k | array | nums nums | {v}[-{k}:] | Take the last {k} elements of "{v}" | Keep the last {k} numbers of "{v}" | Select the final {k} values of "{v}"
drop_first | array | nums nums | {v}[1:] | Remove the first element of "{v}" | Drop the first number of "{v}" | Leave out the first value of "{v}"
unique | array | nums nums | sorted(set({v})) | Sort the distinct elements of "{v}" | Remove duplicates from "{v}" and sort | Take the unique values of "{v}" in order
append_k | array | nums nums | {v} + [{k}] | Append {k} to "{v}" | Put {k} at the end of "{v}" | Extend "{v}" with {k}
sum | math | nums int | sum({v}) | Compute the sum of "{v}" | Add up all numbers in "{v}" | Find the total of "{v}"
max | math | nums int | max({v} + [0]) | Find the largest element of "{v}", at least 0 | Compute the maximum of "{v}" and 0 | Get the biggest number in "{v}" or 0
length | array | nums int | len({v}) | Count the elements of "{v}" | Find the length of "{v}" | Get how many numbers "{v}" has
count_even | algorithm | nums int | sum(i % 2 == 0 for i in {v}) | Count the even numbers in "{v}" | Find how many elements of "{v}" are even | Get the number of even values in "{v}"
count_above | algorithm | nums int | sum(i > {k} for i in {v}) | Count the numbers of "{v}" above {k} | Find how many elements of "{v}" are greater than {k} | Get the number of values in "{v}" larger than {k}
sum_squares | math | nums int | sum(i ** 2 for i in {v}) | Compute the sum of the squares of "{v}" | Add up the squared numbers in "{v}" | Find the total of the squares of "{v}"
running | algorithm | nums nums | [sum({v}[:i + 1]) for i in range(len({v}))] | Compute the running sums of "{v}" | Find the cumulative sums of "{v}" | Take the prefix sums of "{v}"
differences | algorithm | nums nums | [b - a for a, b in zip({v}, {v}[1:])] | Compute the differences of neighbours in "{v}" | Find the steps between consecutive elements of "{v}" | Subtract each number of "{v}" from the next
every_second | algorithm | nums nums | {v}[::2] | Take every second element of "{v}" | Keep every other number of "{v}" | Select the values of "{v}" at even positions
to_strings | array | nums words | [str(i) for i in {v}] | Convert each element of "{v}" to a string | Turn the numbers in "{v}" into strings | Make strings of the values of "{v}"
plus_k | math | int int | {v} + {k} | Add {k} to "{v}" | Increase "{v}" by {k} | Compute "{v}" plus {k}
minus_k | math | int int | {v} - {k} | Subtract {k} from "{v}" | Decrease "{v}" by {k} | Compute "{v}" minus {k}
mul_k | math | int int | {v} * {k} | Multiply "{v}" by {k} | Compute {k} times "{v}" | Take the product of "{v}" and {k}
square | math | int int | {v} ** 2 | Square "{v}" | Compute the square of "{v}" | Raise "{v}" to the power of two
mod_k | math | int int | {v} % {k} | Compute the remainder of "{v}" divided by {k} | Take "{v}" modulo {k} | Find what is left of "{v}" after dividing by {k}
half | math | int int | {v} // 2 | Halve "{v}", rounding down | Divide "{v}" by two without remainder | Compute the integer half of "{v}"
digits | algorithm | int nums | [int(c) for c in str(abs({v}))] | List the digits of "{v}" | Split "{v}" into its digits | Get the decimal digits of "{v}"
upto | algorithm | int nums | list(range(1, {v} % 10 + 1)) | List the numbers from 1 to "{v}" modulo 10 | Count from 1 to the last digit of "{v}" | Make the range from 1 to "{v}" modulo 10
is_even | math | int bool | {v} % 2 == 0 | Check whether "{v}" is even | Test if "{v}" is an even number | Find out if "{v}" divides by two
upper | string | text text | {v}.upper() | Convert "{v}" to uppercase | Make "{v}" upper case | Turn all letters of "{v}" into capitals
title | string | text text | {v}.title() | Capitalize each word of "{v}" | Convert "{v}" to title case | Make every word in "{v}" start with a capital
reverse_text | string | text text | {v}[::-1] | Reverse the string "{v}" | Spell "{v}" backwards | Write the letters of "{v}" in reverse order
repeat_k | string | text text | {v} * {k} | Repeat "{v}" {k} times | Write "{v}" {k} times in a row | Concatenate {k} copies of "{v}"
exclaim | string | text text | {v} + "!" | Add an exclamation mark to "{v}" | Append "!" to "{v}" | Put an exclamation mark after "{v}"
head_k | string | text text | {v}[:{k}] | Take the first {k} characters of "{v}" | Keep the first {k} letters of "{v}" | Cut "{v}" to {k} characters
no_spaces | string | text text | {v}.replace(" ", "") | Remove the spaces from "{v}" | Delete all blanks in "{v}" | Strip every space out of "{v}"
dashes | string | text text | {v}.replace(" ", "-") | Replace the spaces in "{v}" with dashes | Put dashes for the blanks in "{v}" | Change every space of "{v}" to a dash
split | string | text words | {v}.split() | Split "{v}" into words | Break "{v}" at its spaces | Get the list of words in "{v}"
text_length | string | text int | len({v}) | Count the characters of "{v}" | Find the length of the string "{v}" | Get how many characters "{v}" has
vowels | algorithm | text int | sum(c in "aeiou" for c in {v}.lower()) | Count the vowels in "{v}" | Find how many vowels "{v}" has | Get the number of vowels of "{v}"
join | string | words text | " ".join({v}) | Join "{v}" with spaces | Combine the strings in "{v}" into one text | Put the words of "{v}" together with blanks
sort_words | array | words words | sorted({v}) | Sort the words in "{v}" alphabetically | Put the strings of "{v}" in alphabetical order | Arrange "{v}" from A to Z
lengths | array | words nums | [len(w) for w in {v}] | Compute the lengths of the words in "{v}" | Find how long each string in "{v}" is | Get the length of every word of "{v}"
reverse_words | array | words words | {v}[::-1] | Reverse the order of the words in "{v}" | Turn the list of strings "{v}" around | Take the words of "{v}" from last to first
count_words | array | words int | len({v}) | Count the words in "{v}" | Find the number of strings in "{v}" | Get how many words "{v}" has
index_words | dict | words dict | {{w: len(w) for w in {v}}} | Map each word of "{v}" to its length | Make a dictionary from the words in "{v}" to their lengths | Build a dict of word lengths from "{v}"
keys | dict | dict words | list({v}.keys()) | List the keys of "{v}" | Get all keys of the dictionary "{v}" | Collect the keys of "{v}"
dict_values | dict | dict nums | list({v}.values()) | List the values of "{v}" | Get all values of the dictionary "{v}" | Collect the values of the dict "{v}"
dict_size | dict | dict int | len({v}) | Count the entries of "{v}" | Find the size of the dictionary "{v}" | Get how many keys "{v}" has
best_key | dict | dict text | max({v}, key={v}.get, default="") | Find the key of "{v}" with the largest value | Get the key with the highest value in "{v}" | Take the key of "{v}" whose value is the maximum
sort_keys | dict | dict words | sorted({v}) | Sort the keys of "{v}" | List the keys of "{v}" in alphabetical order | Put the keys of the dict "{v}" in order
""")

# More of them for the instrument: near to one another, or with two variables.
OPERATIONS = BASIC + read(r"""
at_least_k | array | nums nums | [i for i in {v} if i >= {k}] | Keep the numbers of "{v}" that are at least {k} | Select the elements of "{v}" not below {k} | Drop every value of "{v}" under {k}
at_most_k | array | nums nums | [i for i in {v} if i <= {k}] | Keep the numbers of "{v}" that are at most {k} | Select the elements of "{v}" not above {k} | Drop every value of "{v}" over {k}
below_k | array | nums nums | [i for i in {v} if i < {k}] | Keep the numbers of "{v}" smaller than {k} | Select the elements of "{v}" below {k} | Filter "{v}" to values less than {k}
drop_last | array | nums nums | {v}[:-1] | Remove the last element of "{v}" | Drop the final number of "{v}" | Leave out the last value of "{v}"
skip_k | array | nums nums | {v}[{k}:] | Remove the first {k} elements of "{v}" | Drop the leading {k} numbers of "{v}" | Keep all of "{v}" but the first {k} values
cut_k | array | nums nums | {v}[:-{k}] | Remove the last {k} elements of "{v}" | Drop the final {k} numbers of "{v}" | Keep all of "{v}" but the last {k} values
subtract_k | array | nums nums | [i - {k} for i in {v}] | Subtract {k} from each element of "{v}" | Decrease every number in "{v}" by {k} | Lower each value of "{v}" by {k}
halves | array | nums nums | [i // 2 for i in {v}] | Halve each element of "{v}", rounding down | Divide every number in "{v}" by two without remainder | Take the integer half of each value of "{v}"
remainders_k | math | nums nums | [i % {k} for i in {v}] | Take each element of "{v}" modulo {k} | Compute the remainders of the numbers in "{v}" divided by {k} | Reduce every value of "{v}" modulo {k}
negate | math | nums nums | [-i for i in {v}] | Negate each element of "{v}" | Change the sign of every number in "{v}" | Take minus each value of "{v}"
odd_places | algorithm | nums nums | {v}[1::2] | Take every second element of "{v}", beginning with the second | Keep every other number of "{v}" from the second on | Select the values of "{v}" at odd positions
largest_k | algorithm | nums nums | sorted({v})[-{k}:] | Take the {k} largest elements of "{v}" in ascending order | Find the {k} biggest numbers in "{v}" and sort them | Sort "{v}" and keep its top {k} values
smallest_k | algorithm | nums nums | sorted({v})[:{k}] | Take the {k} smallest elements of "{v}" in ascending order | Find the {k} least numbers in "{v}" and sort them | Sort "{v}" and keep its bottom {k} values
mirror | algorithm | nums nums | {v} + {v}[::-1] | Append the reverse of "{v}" to it | Put "{v}" and its mirror image together | Follow "{v}" by its own reverse
twice | array | nums nums | {v} + {v} | Write "{v}" twice in a row | Append "{v}" to itself | Concatenate two copies of the list "{v}"
divisible_k | algorithm | nums nums | [i for i in {v} if i % {k} == 0] | Keep the numbers of "{v}" divisible by {k} | Select the multiples of {k} in "{v}" | Filter "{v}" to values that {k} divides
min | math | nums int | min({v} + [99]) | Find the smallest element of "{v}", at most 99 | Compute the minimum of "{v}" and 99 | Get the least number in "{v}" or 99
count_odd | algorithm | nums int | sum(i % 2 == 1 for i in {v}) | Count the odd numbers in "{v}" | Find how many elements of "{v}" are odd | Get the number of odd values in "{v}"
count_below | algorithm | nums int | sum(i < {k} for i in {v}) | Count the numbers of "{v}" below {k} | Find how many elements of "{v}" are smaller than {k} | Get the number of values in "{v}" less than {k}
last_digit | math | int int | {v} % 10 | Take the last digit of "{v}" | Compute "{v}" modulo ten | Find the unit digit of "{v}"
digit_sum | algorithm | int int | sum(int(c) for c in str(abs({v}))) | Compute the sum of the digits of "{v}" | Add up the digits of "{v}" | Find the digit sum of "{v}"
digit_count | algorithm | int int | len(str(abs({v}))) | Count the digits of "{v}" | Find how many digits "{v}" has | Get the number of digits of "{v}"
cube | math | int int | {v} ** 3 | Cube "{v}" | Compute the cube of "{v}" | Raise "{v}" to the power of three
minus | math | int int | -{v} | Negate "{v}" | Change the sign of "{v}" | Take minus "{v}"
to_text | string | int text | str({v}) | Convert "{v}" to a string | Turn the number "{v}" into text | Write "{v}" as a string
lower | string | text text | {v}.lower() | Convert "{v}" to lowercase | Make "{v}" lower case | Turn all letters of "{v}" into small ones
swap_case | string | text text | {v}.swapcase() | Swap the case of the letters in "{v}" | Exchange capitals and small letters in "{v}" | Invert the case of "{v}"
tail_k | string | text text | {v}[-{k}:] | Take the last {k} characters of "{v}" | Keep the last {k} letters of "{v}" | Cut "{v}" to its final {k} characters
skip_text_k | string | text text | {v}[{k}:] | Remove the first {k} characters of "{v}" | Drop the first {k} letters of "{v}" | Keep all of the text "{v}" but its first {k} characters
stars | string | text text | "*" + {v} + "*" | Put a star before and after "{v}" | Surround "{v}" with stars | Write "{v}" between two stars
underscores | string | text text | {v}.replace(" ", "_") | Replace the spaces in "{v}" with underscores | Put underscores for the blanks in "{v}" | Change every space of "{v}" to an underscore
word_count | algorithm | text int | len({v}.split()) | Count the words of the text "{v}" | Find how many words the string "{v}" has | Get the number of words in the text "{v}"
count_a | algorithm | text int | {v}.count("a") | Count the letter a in "{v}" | Find how often "{v}" has an a | Get the number of a in "{v}"
initials | string | words text | "".join(w[:1] for w in {v}) | Join the first letters of the words in "{v}" | Make an acronym of "{v}" | Put the initials of "{v}" together
join_commas | string | words text | ", ".join({v}) | Join "{v}" with commas and spaces | Combine the strings in "{v}" with commas between | Put the words of "{v}" together, separated by commas
by_length | array | words words | sorted({v}, key=len) | Sort the words in "{v}" by length | Put the strings of "{v}" in order of their lengths | Arrange "{v}" from the shortest word to the longest
upper_words | array | words words | [w.upper() for w in {v}] | Convert each word of "{v}" to uppercase | Make all strings in "{v}" upper case | Turn the words of "{v}" into capitals
longest | algorithm | words text | max({v}, key=len, default="") | Find the longest word in "{v}" | Get the string of "{v}" with the most letters | Take the longest of the strings in "{v}"
first_word | array | words text | "".join({v}[:1]) | Take the first word of "{v}" | Get the first string in "{v}" | Pick the word at the head of "{v}"
drop_word | array | words words | {v}[1:] | Remove the first word of "{v}" | Drop the first string of "{v}" | Leave out the first word of "{v}"
total | dict | dict int | sum({v}.values()) | Add up the values of "{v}" | Compute the sum of the values in "{v}" | Find the total of all entries of "{v}"
worst_key | dict | dict text | min({v}, key={v}.get, default="") | Find the key of "{v}" with the smallest value | Get the key with the lowest value in "{v}" | Take the key of "{v}" whose value is the minimum
sort_values | dict | dict nums | sorted({v}.values()) | Sort the values of "{v}" | List the values of "{v}" in ascending order | Put the values of the dict "{v}" in order
by_value | dict | dict words | sorted({v}, key={v}.get) | Sort the keys of "{v}" by their values | List the keys of "{v}" in order of their values | Arrange the keys of "{v}" from the smallest value to the largest
double_values | dict | dict dict | {{a: 2 * b for a, b in {v}.items()}} | Double each value of the dictionary "{v}" | Multiply all values in "{v}" by two, keys as they are | Map each key of "{v}" to twice its value
add_each | array | nums int nums | [i + {w} for i in {v}] | Add "{w}" to each element of "{v}" | Increase every number in "{v}" by "{w}" | Raise each value of "{v}" by "{w}"
times_each | array | nums int nums | [i * {w} for i in {v}] | Multiply each element of "{v}" by "{w}" | Scale every number in "{v}" by "{w}" | Take "{w}" times each value of "{v}"
above | array | nums int nums | [i for i in {v} if i > {w}] | Keep the numbers of "{v}" greater than "{w}" | Select the elements of "{v}" above "{w}" | Filter "{v}" to values larger than "{w}"
below | array | nums int nums | [i for i in {v} if i < {w}] | Keep the numbers of "{v}" smaller than "{w}" | Select the elements of "{v}" below "{w}" | Filter "{v}" to values less than "{w}"
append | array | nums int nums | {v} + [{w}] | Append "{w}" to "{v}" | Put "{w}" at the end of "{v}" | Extend "{v}" with "{w}"
concat | array | nums nums nums | {v} + {w} | Concatenate "{v}" and "{w}" | Append the list "{w}" to "{v}" | Put the elements of "{w}" after those of "{v}"
add_lists | array | nums nums nums | [a + b for a, b in zip({v}, {w})] | Add "{v}" and "{w}" element by element | Sum the numbers of "{v}" and "{w}" in pairs | Compute the sums of "{v}" and "{w}", place by place
dot | math | nums nums int | sum(a * b for a, b in zip({v}, {w})) | Compute the dot product of "{v}" and "{w}" | Multiply "{v}" and "{w}" in pairs and add up | Find the scalar product of "{v}" and "{w}"
plus | math | int int int | {v} + {w} | Add "{v}" and "{w}" | Compute the sum of "{v}" and "{w}" | Find "{v}" plus "{w}"
less | math | int int int | {v} - {w} | Subtract "{w}" from "{v}" | Compute "{v}" minus "{w}" | Find the difference of "{v}" and "{w}"
times | math | int int int | {v} * {w} | Multiply "{v}" and "{w}" | Compute the product of "{v}" and "{w}" | Find "{v}" times "{w}"
larger | math | int int int | max({v}, {w}) | Find the larger of "{v}" and "{w}" | Compute the maximum of "{v}" and "{w}" | Take "{v}" or "{w}", the bigger one
join_texts | string | text text text | {v} + {w} | Concatenate the strings "{v}" and "{w}" | Append the string "{w}" to "{v}" | Put the text "{w}" right after "{v}"
spaced | string | text text text | {v} + " " + {w} | Join "{v}" and "{w}" with a space | Put "{v}" and "{w}" together with a blank between | Write "{v}", a space and "{w}"
add_word | array | words text words | {v} + [{w}] | Append "{w}" to the words in "{v}" | Put "{w}" at the end of the list "{v}" | Extend the words "{v}" by "{w}"
glue | string | words text text | {w}.join({v}) | Join "{v}" with "{w}" between | Combine the strings in "{v}", separated by "{w}" | Put the words of "{v}" together with "{w}" in between
all_words | array | words words words | {v} + {w} | Concatenate the word lists "{v}" and "{w}" | Append the words in "{w}" to "{v}" | Put the words of "{w}" after those of "{v}"
pair_up | dict | words nums dict | dict(zip({v}, {w})) | Map the words in "{v}" to the numbers in "{w}" | Make a dictionary with keys "{v}" and values "{w}" | Build a dict from "{v}" to "{w}"
look_up | dict | dict text int | {v}.get({w}, 0) | Look up "{w}" in "{v}", 0 if it is not there | Get the value of the key "{w}" in "{v}" or 0 | Find what "{v}" has for "{w}", by default 0
look_up_all | dict | dict words nums | [{v}.get(w, 0) for w in {w}] | Look up each word of "{w}" in "{v}", 0 if it is not there | Get the values that "{v}" has for the words in "{w}" or 0 | Find what "{v}" has for each of "{w}", by default 0
raise_values | dict | dict int dict | {{a: b + {w} for a, b in {v}.items()}} | Add "{w}" to each value of the dictionary "{v}" | Increase all values in "{v}" by "{w}", keys as they are | Raise every entry of "{v}" by "{w}"
merge | dict | dict dict dict | {{**{v}, **{w}}} | Merge "{w}" into "{v}" | Combine the dictionaries "{v}" and "{w}" | Put the entries of "{w}" into "{v}"
""")
CODE = {op.name: op.code for op in OPERATIONS}

ASSIGN = {
    "nums": ['Assign the list {x} to a variable named "{o}"',
             'Create a list "{o}" with the numbers {x}', 'Let "{o}" be the list {x}'],
    "words": ['Assign the list {x} to a variable named "{o}"',
              'Create a list "{o}" of the strings {x}', 'Let "{o}" be the list {x}'],
    "text": ['Assign the string {x} to a variable named "{o}"',
             'Create a string "{o}" with the text {x}', 'Let "{o}" be the string {x}'],
    "int": ['Assign the number {x} to a variable named "{o}"',
            'Create an integer "{o}" equal to {x}', 'Let "{o}" be {x}'],
    "dict": ['Assign the dictionary {x} to a variable named "{o}"',
             'Create a dict "{o}" with the entries {x}', 'Let "{o}" be the dictionary {x}'],
}
INTO = [' and assign it to "{o}"', ' and store the result in "{o}"', ' as "{o}"']
PRINT = ['Print "{v}"', 'Print the value of "{v}"', 'Show "{v}"', 'Print the variable {v}']

# What the operations are in three languages, where they are one expression; "-" where they are not.
FOREIGN = {name: dict(zip(("JavaScript", "Java", "Go"), row)) for name, *row in (line.split(" ~ ") for line in """
sort ~ [...{v}].sort((a, b) => a - b) ~ {v}.stream().sorted().toList() ~ -
reverse ~ [...{v}].reverse() ~ - ~ -
double ~ {v}.map(i => 2 * i) ~ {v}.stream().map(i -> 2 * i).toList() ~ -
add_k ~ {v}.map(i => i + {k}) ~ {v}.stream().map(i -> i + {k}).toList() ~ -
times_k ~ {v}.map(i => i * {k}) ~ {v}.stream().map(i -> i * {k}).toList() ~ -
squares ~ {v}.map(i => i ** 2) ~ {v}.stream().map(i -> i * i).toList() ~ -
evens ~ {v}.filter(i => i % 2 == 0) ~ {v}.stream().filter(i -> i % 2 == 0).toList() ~ -
odds ~ {v}.filter(i => i % 2 == 1) ~ {v}.stream().filter(i -> i % 2 == 1).toList() ~ -
above_k ~ {v}.filter(i => i > {k}) ~ {v}.stream().filter(i -> i > {k}).toList() ~ -
first_k ~ {v}.slice(0, {k}) ~ {v}.stream().limit({k}).toList() ~ -
drop_first ~ {v}.slice(1) ~ {v}.stream().skip(1).toList() ~ {v}[1:]
append_k ~ [...{v}, {k}] ~ - ~ append({v}, {k})
sum ~ {v}.reduce((a, b) => a + b, 0) ~ {v}.stream().mapToInt(i -> i).sum() ~ -
length ~ {v}.length ~ {v}.size() ~ len({v})
to_strings ~ {v}.map(String) ~ {v}.stream().map(String::valueOf).toList() ~ -
upper ~ {v}.toUpperCase() ~ {v}.toUpperCase() ~ strings.ToUpper({v})
repeat_k ~ {v}.repeat({k}) ~ {v}.repeat({k}) ~ strings.Repeat({v}, {k})
exclaim ~ {v} + "!" ~ {v} + "!" ~ {v} + "!"
no_spaces ~ {v}.replaceAll(" ", "") ~ {v}.replace(" ", "") ~ strings.ReplaceAll({v}, " ", "")
dashes ~ {v}.replaceAll(" ", "-") ~ {v}.replace(" ", "-") ~ strings.ReplaceAll({v}, " ", "-")
split ~ {v}.split(" ") ~ List.of({v}.split(" ")) ~ strings.Fields({v})
text_length ~ {v}.length ~ {v}.length() ~ len({v})
join ~ {v}.join(" ") ~ String.join(" ", {v}) ~ strings.Join({v}, " ")
sort_words ~ [...{v}].sort() ~ {v}.stream().sorted().toList() ~ -
lengths ~ {v}.map(w => w.length) ~ {v}.stream().map(w -> w.length()).toList() ~ -
count_words ~ {v}.length ~ {v}.size() ~ len({v})
""".strip().splitlines())}
for same in ("plus_k", "minus_k", "mul_k", "mod_k", "half", "square"):      # arithmetic reads alike in all of them
    FOREIGN[same] = dict.fromkeys(("JavaScript", "Java", "Go", "C", "C++"),
                                  {"half": "{v} / 2", "square": "{v} * {v}"}.get(same, CODE[same]))
FOREIGN["half"] = FOREIGN["half"] | {"JavaScript": "Math.floor({v} / 2)"}

# Language: how a list is written, how a variable of each type is declared, how a value is printed.
LANGUAGES = {
    "JavaScript": ("[{}]", dict.fromkeys(NAMES, "let {o} = {e};"), "console.log({v});"),
    "Java": ("List.of({})", {"nums": "List<Integer> {o} = {e};", "words": "List<String> {o} = {e};",
                             "text": "String {o} = {e};", "int": "int {o} = {e};"}, "System.out.println({v});"),
    "Go": ("[]{t}{{{}}}", dict.fromkeys(NAMES, "{o} := {e}"), "fmt.Println({v})"),
    "C": ("", {"int": "int {o} = {e};"}, 'printf("%d\\n", {v});'),
    "C++": ("", {"int": "int {o} = {e};"}, "std::cout << {v} << std::endl;"),
}
