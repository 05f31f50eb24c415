-- Takes a whole statement back: a condition that only its last step can judge. The code is ours (class LC).
CREATE FUNCTION require(condition boolean) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    IF condition THEN
        RETURN true;
    END IF;
    RAISE EXCEPTION 'what was required is not so' USING ERRCODE = 'LC001';
END $$;
