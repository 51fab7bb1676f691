"""The scripts of the task `mini`: what its stories are made of. `mini.py` says how to read them.

A script is written the way one would on paper:

    {A} {gets} {few} {boxes} of {things} with {some} {things} in each {box}.
    There are {some} {things} in each {box}, and {A} {gets} {few} {boxes}.
        few * some : {A} {gets} {=} {things}. | {A} starts with {=} {things}.

Unindented lines are ways to tell a move. The indented lines below them are its steps, `equation : ways
to say it`, where `{=}` stands for the equation worked out (`3 * 4 = 12`). In an equation `x` is the
result so far, `y` the step before in the same move, and any other word a number drawn from RANGES. An
equation of a single word is no step: the story just stands at that number.

`{A}` is the one the story is about and `{B}` somebody new in each move; `{gets}`, `{things}` and the
like come from the word lists at the end, in which a line is a theme.
"""

RANGES = {"few": (2, 6), "each": (2, 9), "some": (2, 12), "more": (5, 20), "many": (12, 40), "goal": (40, 100)}

# fmt: off
NAMES = [
    "Ada", "Amir", "Anna", "Ben", "Bella", "Carl", "Chen", "Clara", "Dana", "David",
    "Elena", "Emma", "Felix", "Grace", "Hana", "Hugo", "Ivan", "Jack", "Jonas", "Kira",
    "Leo", "Lily", "Lucas", "Maria", "Max", "Mia", "Nina", "Noah", "Nora", "Omar",
    "Oscar", "Paul", "Priya", "Rosa", "Ruth", "Sam", "Sofia", "Tom", "Vera", "Yusuf",
]
# fmt: on
PLACES = ["park", "school", "beach", "library", "market", "museum", "zoo", "station", "farm", "lake"]
THEN = ["", "", "Then ", "Later, ", "After that, ", "The next day, "]

STOCK_STARTS = """
{A} has {many} {things}.
At first, {A} has {many} {things}.
    many
{A} {gets} {few} {boxes} of {things} with {some} {things} in each {box}.
{A} {gets} {few} {boxes} of {things}. Each {box} has {some} {things}.
There are {some} {things} in each {box}, and {A} {gets} {few} {boxes}.
    few * some : {A} {gets} {=} {things}. | {A} starts with {=} {things}.
{A} {gets} {some} {things} a day for {few} days.
Every day for {few} days, {A} {gets} {some} {things}.
    few * some : {A} {gets} {=} {things}. | In those days {A} {gets} {=} {things}.
{A} {gets} {many} {things} on Monday and {more} {things} on Tuesday.
{A} {gets} {many} big {things} and {more} small {things}.
    many + more : {A} {gets} {=} {things}. | Together that is {=} {things}.
{B} {gets} {many} {things}, and {A} {gets} {more} more than {B}.
{A} {gets} {more} more {things} than {B}, who {gets} {many} {things}.
    many + more : {A} {gets} {=} {things}. | So {A} has {=} {things}.
{B} {gets} {many} {things}, and {A} {gets} {more} fewer than {B}.
{A} {gets} {more} fewer {things} than {B}, who {gets} {many} {things}.
    many - more : {A} {gets} {=} {things}. | So {A} has {=} {things}.
{B} {gets} {some} {things}, and {A} {gets} {few} times as many.
{A} {gets} {few} times as many {things} as {B}, who {gets} {some} {things}.
    few * some : {A} {gets} {=} {things}. | So {A} has {=} {things}.
{B} {gets} {more} {things}, and {A} {gets} twice as many.
{A} {gets} twice as many {things} as {B}, who {gets} {more} {things}.
    2 * more : {A} {gets} {=} {things}. | So {A} has {=} {things}.
{B} {gets} {many} {things}, and {A} {gets} half as many.
{A} {gets} half as many {things} as {B}, who {gets} {many} {things}.
    many / 2 : {A} {gets} {=} {things}. | So {A} has {=} {things}.
{A} is one of {few} children who share {many} {things} equally.
A group of {few} friends shares {many} {things} equally. One of them is {A}.
    many / few : {A} gets {=} {things}. | Each of them gets {=} {things}.
"""

STOCK_TURNS = """
{then}{A} gives {some} {things} to {B}.
{then}{B} takes {some} of the {things}.
{then}{A} {loses} {some} {things}.
{then}{A} {loses} {some} of the {things} at the {place}.
    x - some : {A} has {=} {things} left. | That leaves {=} {things}. | Now {A} has {=} {things}.
{then}{B} gives {A} {some} {things}.
{then}{A} {gets} {some} more {things}.
{then}{A} gets {some} more {things} from a friend at the {place}.
    x + some : Now {A} has {=} {things}. | That makes {=} {things}.
{then}{A} gives half of the {things} to {B}.
{then}{A} {loses} half of the {things}.
    x / 2 : {A} has {=} {things} left. | Half of them is {=} {things}.
{then}{A} gives {each} {things} to each of {few} friends.
{then}each of {few} friends takes {each} {things}.
    few * each : The friends get {=} {things}. | {A} gives away {=} {things}.
    x - y : {A} has {=} {things} left. | That leaves {=} {things}.
{then}{A} {gets} {few} more {boxes} of {each} {things} each.
{then}{B} brings {A} {few} {boxes} with {each} {things} in each {box}.
    few * each : The new {boxes} have {=} {things}. | That is {=} more {things}.
    x + y : Now {A} has {=} {things}. | That makes {=} {things}.
A month later, {A} has {few} times as many {things}.
By the summer, {A} has {few} times as many {things} as before.
    x * few : Now {A} has {=} {things}. | That makes {=} {things}.
"""

STOCK_ENDS = """
How many {things} does {A} have now?
How many {things} does {A} have in the end?
    x
{A} shares the {things} equally among {few} friends. How many {things} does each friend get?
If {few} children share the {things} of {A} equally, how many {things} does each of them get?
    x / few : Each of them gets {=} {things}. | That is {=} {things} each.
{A} packs all the {things} into bags of {each}. How many bags are there?
If {A} puts {each} {things} in each bag, how many bags does {A} need for all of them?
    x / each : {A} needs {=} bags. | That makes {=} bags.
{A} sells all the {things} for {few} dollars each. How many dollars does {A} get?
If each {thing} is sold for {few} dollars, how much money does {A} make?
    x * few : {A} gets {=} dollars. | The {things} bring {=} dollars.
{A} wants to have {goal} {things}. How many more {things} does {A} need?
How many more {things} does {A} need to have {goal}?
    goal - x : {A} needs {=} more {things}. | So {=} {things} are missing.
{B} has {goal} {things}. How many more {things} does {B} have than {A}?
How many fewer {things} does {A} have than {B}, who has {goal} {things}?
    goal - x : The difference is {=} {things}. | {B} has {=} more {things}.
{B} has {some} fewer {things} than {A} has now. How many {things} does {B} have?
If {A} now has {some} more {things} than {B}, how many {things} does {B} have?
    x - some : {B} has {=} {things}. | So {B} has {=} {things}.
{B} has {few} times as many {things} as {A} has now. How many {things} does {B} have?
How many {things} does {B} have, who has {few} times as many as {A}?
    x * few : {B} has {=} {things}. | So {B} has {=} {things}.
{B} has {more} more {things} than {A} has now. How many do they have together?
How many {things} do {A} and {B} have together if {B} has {more} more than {A}?
    x + more : {B} has {=} {things}. | So {B} has {=} {things}.
    x + y : Together they have {=} {things}. | The two have {=} {things}.
{B} has half as many {things} as {A} has now. How many do they have together?
How many {things} do {A} and {B} have together if {B} has half as many as {A}?
    x / 2 : {B} has {=} {things}. | So {B} has {=} {things}.
    x + y : Together they have {=} {things}. | The two have {=} {things}.
"""

MONEY_STARTS = """
{A} has {many} dollars.
There are {many} dollars in {A}'s purse.
    many
{A} saves {some} dollars a week for {few} weeks.
{A} {works} {few} times and is paid {some} dollars each time.
For {few} weeks, {A} puts {some} dollars a week into a jar.
    few * some : {A} has {=} dollars. | {A} saves {=} dollars.
{A} has {many} dollars and then earns {more} dollars.
{A} gets {many} dollars from one uncle and {more} dollars from another.
    many + more : {A} has {=} dollars. | Together that is {=} dollars.
"""

MONEY_TURNS = """
{then}{A} spends {some} dollars on a {thing}.
{then}{A} buys a {thing} for {some} dollars.
{then}{A} lends {B} {some} dollars.
    x - some : {A} has {=} dollars left. | That leaves {=} dollars.
{then}{A} finds {some} dollars at the {place}.
{then}{B} pays {A} {some} dollars.
    x + some : Now {A} has {=} dollars. | That makes {=} dollars.
{then}{A} buys {few} {things} for {each} dollars each.
{then}{A} buys {few} {things}. Each {thing} costs {each} dollars.
    few * each : The {things} cost {=} dollars. | {A} pays {=} dollars.
    x - y : {A} has {=} dollars left. | That leaves {=} dollars.
{then}{A} spends half of the money at the {place}.
{then}{A} gives half of the money to {B}.
    x / 2 : {A} has {=} dollars left. | Half of it is {=} dollars.
{then}an aunt doubles the money that {A} has.
    x * 2 : Now {A} has {=} dollars. | Twice as much is {=} dollars.
"""

MONEY_ENDS = """
How much money does {A} have now?
How many dollars does {A} have in the end?
    x
{A} wants to buy a bike for {goal} dollars. How many more dollars does {A} need?
How much money is missing if {A} wants a bike that costs {goal} dollars?
    goal - x : {A} needs {=} more dollars. | So {=} dollars are missing.
How many {things} can {A} buy if each {thing} costs {each} dollars?
{A} spends all the money on {things} for {each} dollars each. How many {things} does {A} buy?
    x / each : {A} can buy {=} {things}. | The money is enough for {=} {things}.
{B} has {few} times as much money as {A} has now. How much money does {B} have?
    x * few : {B} has {=} dollars. | So {B} has {=} dollars.
{B} has {some} dollars less than {A} has now. How much money do they have together?
    x - some : {B} has {=} dollars. | So {B} has {=} dollars.
    x + y : Together they have {=} dollars. | The two have {=} dollars.
"""

EFFORT_STARTS = """
{A} {does} {some} {units} a day for {few} days.
For {few} days, {A} {does} {some} {units} each day.
    few * some : {A} {does} {=} {units}. | In those days {A} {does} {=} {units}.
{A} {does} {many} {units} in the morning and {more} {units} in the evening.
On Friday {A} {does} {many} {units}, and on Sunday {more} {units}.
    many + more : {A} {does} {=} {units}. | Together that is {=} {units}.
{B} {does} {many} {units}, and {A} {does} {more} fewer.
{A} {does} {more} fewer {units} than {B}, who {does} {many} {units}.
    many - more : {A} {does} {=} {units}. | So {A} {does} {=} {units}.
{B} {does} {more} {units}, and {A} {does} twice as many.
    2 * more : {A} {does} {=} {units}. | So {A} {does} {=} {units}.
{B} {does} {many} {units}, and {A} {does} half as many.
    many / 2 : {A} {does} {=} {units}. | So {A} {does} {=} {units}.
"""

EFFORT_TURNS = """
{then}{A} {does} {more} more {units}.
{then}{A} {does} another {more} {units}.
    x + more : So far that is {=} {units}. | That makes {=} {units}.
{then}{A} {does} {each} {units} on each of the next {few} days.
    few * each : That is {=} more {units}. | {A} adds {=} {units}.
    x + y : So far that is {=} {units}. | That makes {=} {units}.
{then}{A} {does} the same number of {units} again.
    x * 2 : So far that is {=} {units}. | Twice as many is {=} {units}.
"""

EFFORT_ENDS = """
How many {units} is that in all?
What is the total number of {units} for {A}?
    x
The plan is to reach {goal} {units}. How many {units} are left for {A}?
If {A} wants to reach {goal} {units}, how many are left?
    goal - x : There are {=} {units} left. | That leaves {=} {units}.
The plan is to reach {goal} {units}. How many days will the rest take at {few} {units} a day?
    goal - x : There are {=} {units} left. | That leaves {=} {units}.
    y / few : The rest takes {=} days. | {A} needs {=} days.
{B} {does} {some} fewer {units} than {A} in all. How many {units} is that for {B}?
    x - some : {B} {does} {=} {units}. | So {B} {does} {=} {units}.
{A} does all of this every week. How many {units} is that in {few} weeks?
    x * few : In those weeks it is {=} {units}. | {A} {does} {=} {units}.
"""

CROWD_STARTS = """
Each of {few} {boxes} brings {some} {things} to the {place}.
There are {few} {boxes} at the {place} with {some} {things} in each {box}.
    few * some : There are {=} {things}. | The {boxes} bring {=} {things}.
At the {place} there are {many} young {things} and {more} old {things}.
    many + more : There are {=} {things}. | Together that is {=} {things}.
Of the {many} {things} at the {place}, {more} leave early.
    many - more : There are {=} {things} left. | That leaves {=} {things}.
"""

CROWD_TURNS = """
{then}{some} {things} go home.
{then}{some} of the {things} leave.
    x - some : There are {=} {things} left. | That leaves {=} {things}.
{then}{some} more {things} come.
{then}{some} {things} join them.
    x + some : Now there are {=} {things}. | That makes {=} {things}.
{then}half of the {things} go home.
{then}half of the {things} leave.
    x / 2 : There are {=} {things} left. | Half of them is {=} {things}.
{then}{few} {boxes} with {each} {things} each leave.
    few * each : That is {=} {things}. | The {boxes} take {=} {things}.
    x - y : There are {=} {things} left. | That leaves {=} {things}.
"""

CROWD_ENDS = """
How many {things} are at the {place} now?
How many {things} are there in the end?
    x
They form teams of {each}. How many teams are there?
How many teams of {each} can the {things} form?
    x / each : There are {=} teams. | That makes {=} teams.
Each of the {things} buys {few} tickets. How many tickets is that?
If each of the {things} gets {few} tickets, how many tickets are there in all?
    x * few : That is {=} tickets. | There are {=} tickets.
There are {goal} seats. How many seats stay empty?
If there is room for {goal} {things}, how many more could come?
    goal - x : There is room for {=} more. | So {=} are free.
"""

STOCK_WORDS = """
collects, finds : loses, trades : bag, jar, tin : stamp, coin, sticker, marble, shell, button, bead, badge
bakes, makes : sells, eats : tray, batch, plate : cookie, muffin, cupcake, roll, pie, bagel, waffle, tart
picks, gathers : eats, sells : basket, crate, bucket : apple, pear, plum, lemon, carrot, melon, grape, nut
buys, orders : uses, loses : pack, box, bundle : pencil, crayon, notebook, eraser, balloon, marker, candle, brush
makes, paints : sells, hides : set, box, pile : kite, card, lantern, puppet, bracelet, mask, basket, toy
plants, grows : removes, sells : row, bed, pot : tulip, rose, tree, bean, bulb, herb, fern, onion
buys : sells, trades : pen, barn, group : goat, duck, chicken, horse, cow, pig, lamb, rabbit
buys, finds : sells, loses : stack, bag, box : book, magazine, comic, film, game, map, record, puzzle
"""
STOCK_SLOTS = ["gets", "loses", "box", "thing"]

MONEY_WORDS = """
mows lawns, babysits : book, ticket, game, lamp, cake, hat, ball, plant, mug
walks dogs, sings : shirt, toy, pen, basket, candle, chair, plate, map
washes cars, cooks : puzzle, spoon, pillow, clock, card, ring, brush, drum
"""
MONEY_SLOTS = ["works", "thing"]

EFFORT_WORDS = """
reads, writes : page, chapter, letter
walks, runs, drives, sails : mile
solves : puzzle, riddle
paints, washes : fence, wall, window
"""
EFFORT_SLOTS = ["does", "unit"]

CROWD_WORDS = """
bus, van, train : student, visitor, guest
boat, truck : tourist, worker, sailor
group, club : dancer, player, singer
"""
CROWD_SLOTS = ["box", "thing"]
