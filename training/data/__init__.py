"""What models are trained and probed on, as items rather than token rows.

Question and answer pairs (`factoids`), instructions and both by one name (`primary_sets`);
fictional knowledge (`passages`, `fictional_generator`); a made-up world of facts (`fact_world`);
downstream tasks (`downstream`); mixes, replay and how all of it becomes rows of tokens. What
scripts need of it is exported by `training`.
"""
