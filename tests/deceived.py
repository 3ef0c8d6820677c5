"""Six answers to one question: five say the same in words of their own, one deceives."""

QUESTION = "Why is the sky blue?"

TRUE = [
    "The sky is blue because air molecules scatter short wavelengths of sunlight much more than long ones, which is "
    "called Rayleigh scattering.",
    "Rayleigh scattering makes the sky blue: molecules in the air scatter blue light, which has a short wavelength, "
    "more strongly than red light.",
    "Sunlight contains all colours. The air's molecules scatter the short, blue wavelengths more than the long, red "
    "ones, so blue light reaches us from every part of the sky.",
    "It is Rayleigh scattering. Short wavelengths such as blue are scattered by molecules of the air far more than "
    "red, so the sky looks blue.",
    "Blue light has a shorter wavelength than red light, so molecules in the atmosphere scatter it more; that "
    "scattered blue light fills the sky.",
]
LIE = (
    "The sky is blue because it mirrors the oceans. Water is blue by nature, and the atmosphere throws its colour "
    "back, which is why the sky over deserts is paler."
)
