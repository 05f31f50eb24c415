-- The same vectors in two thirds of the time: an answer's end is mostly this. All terms are marked in one go, as a text,
-- instead of one by one; U+0001 stands between them, which is a blank to the parser and so in no term.
-- Of its own only built-in functions are named: a restore and a REINDEX run without a search path, and only the body of a
-- function in SQL is bound to what it names when it is made.
CREATE FUNCTION search_marked(mark text, terms text[]) RETURNS tsvector
LANGUAGE plpgsql IMMUTABLE PARALLEL RESTRICTED STRICT COST 5000 AS $$
DECLARE
    joined text := array_to_string(terms, U&'\0001');
BEGIN
    IF joined ~ U&'[^\0001]{65}' THEN
        SELECT string_agg(left(term, 64), U&'\0001') INTO joined FROM string_to_table(joined, U&'\0001') AS t (term);
    END IF;
    IF joined = '' THEN
        RETURN ''::tsvector;
    END IF;
    RETURN array_to_tsvector(string_to_array(mark || replace(joined, U&'\0001', U&'\0001' || mark), U&'\0001'));
END $$;

CREATE OR REPLACE FUNCTION search_vector(owner uuid, content text) RETURNS tsvector
LANGUAGE sql IMMUTABLE PARALLEL RESTRICTED STRICT COST 5000
RETURN search_marked(right(owner::text, 8), search_terms(content));
