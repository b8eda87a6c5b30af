"""What is signed: the forms of every statement, ticket and order. Whose signature counts is the trust file's to say."""
