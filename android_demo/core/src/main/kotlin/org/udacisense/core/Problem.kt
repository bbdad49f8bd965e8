package org.udacisense.core

/** Something that the person in front of the screen should read: one sentence that says what is wrong and what to do. */
class Problem(
    message: String,
    cause: Throwable? = null
) : Exception(message, cause)
